"""GPT-2's alphabet, and a BPE rebuilt from the ranks of its tokens."""

from tokenizers import pre_tokenizers

from jaxloss.data.byte_level import byte_chars, from_ranks


def test_the_alphabet_is_that_of_the_tokenizers_package():
    chars = byte_chars()
    assert sorted(chars) == list(range(256))
    assert sorted(chars.values()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert (chars[ord(" ")], chars[ord("a")], chars[0]) == ("\u0120", "a", "\u0100")


def test_merges_are_rebuilt_in_order_of_rank():
    # "abcd" can only come from "ab" + "cd": "cd" outranks "abc", although that is a token too.
    tokens = [bytes([i]) for i in range(256)] + [b"cd", b"ab", b"abc", b"abcd"]
    tokenizer = from_ranks(tokens)
    assert tokenizer.encode("abcd").ids == [259]
    assert tokenizer.encode("abc").ids == [258]
    assert tokenizer.token_to_id("<|endoftext|>") == 260
