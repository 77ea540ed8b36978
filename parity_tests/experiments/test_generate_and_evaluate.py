"""Text and figures from a saved model by command, and every kind of bad input."""

import json
import os

import jax
import numpy as np
import pytest

from jaxloss import model5
from jaxloss.data import make_tokenizer
from jaxloss.model5 import Model5Config, fold_logit_scale, from_arrays, save_weights
from jaxloss.runs.cli import run_cli
from parity_tests.model5.pairs import weights
from parity_tests.quick_compilation import jit
from parity_tests.scripts import load

writing, measuring = load("generate"), load("evaluate")
CONFIG = Model5Config(vocab_size=256, context_length=16, embed_dim=16, num_heads=2, num_blocks=1)
BYTES = make_tokenizer("bytes")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Token files go to a folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run's folder, as far as its model goes, which writes ASCII: other bytes have logit 0."""
    folder = tmp_path_factory.mktemp("runs")
    arrays = {name: array.copy() for name, array in weights(CONFIG).items()}
    arrays["wte.weight"][128:] = 0
    params = from_arrays(arrays, CONFIG)
    save_weights(folder / "weights", *fold_logit_scale(params, CONFIG))
    BYTES.save(folder / "tokenizer.json")
    return folder


def write(*argv):
    return run_cli(writing.main, writing.Config, argv=[str(part) for part in argv])


def measure(*argv):
    return run_cli(measuring.main, measuring.Config, argv=[str(part) for part in argv])


def test_prompts_of_different_lengths_are_continued_shown_and_written(folder, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("One and all of two\n\nThree\n")
    files = "--prompt-file", tmp_path / "prompts.txt", "--out", tmp_path / "texts.json"
    options = "--num-tokens", 6, "--temperature", 0, "--stop", "None"
    assert write(folder, "--prompt", "Caf\u00e9", *files, *options) == 0
    shown = capsys.readouterr()
    assert shown.err == (
        "prompt 2 has 18 tokens, more than the context of 16: the model sees the last of them only\n"
    )
    texts = json.loads((tmp_path / "texts.json").read_text())
    assert [text["prompt"] for text in texts] == ["Caf\u00e9", "One and all of two", "Three"]
    for number, text in enumerate(texts, start=1):
        assert f"# text {number} of 3\n\n{text['prompt']}{text['text']}\n" in shown.out
    params, config = model5.load_weights(folder / "weights")
    prompt = BYTES.encode(["One and all of Three"])[0].astype(np.int32)
    options = {"num_tokens": 6, "key": jax.random.key(0), "temperature": 0.0, "prompt_lengths": [20, 20, 5]}
    ids = model5.generate(params, config, np.tile(prompt, (3, 1)), **options)[2, 20:]
    assert texts[2]["text"] == BYTES.decode(ids)
    # What stops a text is not part of it, and the mark of a document's end may stand in a prompt.
    stop = BYTES.decode(ids[3:4])
    prompts = "--prompt", "<|endoftext|>", "One and all of two", "Three"
    assert write(folder, *prompts, "--num-tokens", 6, "--temperature", 0, "--stop", stop) == 0
    assert capsys.readouterr().out.endswith(f"# text 3 of 3\n\nThree{texts[2]['text'].split(stop)[0]}\n")


def test_losses_of_both_objectives_are_those_of_the_training_with_their_perplexity(folder, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("The cat sat on the mat and looked at the dog. " * 20)
    out = tmp_path / "results.json"
    options = "--crops", 10, "--batch-size", 4, "--part", "all", "--out", out
    assert measure(folder / "weights", "--corpus", tmp_path / "text.txt", *options) == 0
    results = json.loads(out.read_text(), parse_constant=pytest.fail)
    data = measuring.TextConfig(corpus=str(tmp_path / "text.txt")).encode(BYTES, 16)
    crops = measuring.crops_of([data.train, data.test], 10, 16)
    params, config = model5.load_weights(folder / "weights")
    logits = jit(model5.Model5(config).apply)({"params": params}, crops[0])
    log_probabilities = np.asarray(logits) - np.logaddexp.reduce(np.asarray(logits), axis=-1, keepdims=True)
    losses = -np.take_along_axis(log_probabilities, crops[1][..., None], -1)[..., 0]
    for name, expected in (("all", losses.mean(1)), ("final", losses[:, -1])):
        mean, error = expected.mean(), expected.std(ddof=1) / np.sqrt(10)
        assert results[name]["loss"]["mean"] == pytest.approx(mean, rel=1e-5)
        assert results[name]["loss"]["standard_error"] == pytest.approx(error, rel=1e-4)
        assert results[name]["perplexity"]["mean"] == pytest.approx(np.exp(mean), rel=1e-4)
        assert results[name]["perplexity"]["standard_error"] == pytest.approx(np.exp(mean) * error, rel=1e-3)
    assert f"{results['all']['loss']['mean']:.3f} \u00b1" in capsys.readouterr().out


def broken(folder, tmp_path, name):
    """A folder whose model cannot be used."""
    path = tmp_path / "model"
    if name == "nothing":
        path.mkdir()
        return path
    if name == "several":
        for which in ("weights_all", "weights_final"):
            (path / which).mkdir(parents=True)
        return path
    arrays = {name: array.copy() for name, array in weights(CONFIG).items()}
    if name == "nan":
        arrays["h.0.mlp.c_fc.bias"][3] = np.nan
    save_weights(path, from_arrays(arrays, CONFIG), CONFIG)
    if name == "small":
        make_tokenizer("bpe", texts=["the cat sat on the cat mat"], vocab_size=259).save(
            path / "tokenizer.json"
        )
    elif name != "bare":
        BYTES.save(path / "tokenizer.json")
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "is no run folder with weights, and no GPT-2 directory: it holds no .safetensors"),
        ("several", "holds several models, weights_all, weights_final: name one, such as"),
        ("nan", "h_0/mlp/c_fc/bias[3] is nan: the training diverged; take weights that were saved before"),
        ("small", "has a vocabulary of 256, but the tokenizer's ids go up to 258"),
        ("bare", "name the model's own with --tokenizer"),
    ],
)
def test_a_model_that_cannot_be_used_is_one_line_and_exit_code_2(name, message, folder, tmp_path, capsys):
    path = broken(folder, tmp_path, name)
    for run in ((write, path, "--prompt", "x"), (measure, path)):
        assert run[0](*run[1:]) == 2
        shown = capsys.readouterr()
        assert shown.err.startswith("error: ")
        assert message in shown.err
        assert (shown.out, shown.err.count("\n")) == ("", 1)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "no prompt: give --prompt TEXT or --prompt-file FILE"),
        (["--prompt", ""], "--prompt 1 must not be empty: <|endoftext|> begins a new document"),
        (["--prompt", "x", os.fsdecode(b"caf\xff")], "--prompt 2 is not UTF-8: character 3 is 0xff"),
        (["--prompt-file", "nowhere.txt"], "No such file or directory: 'nowhere.txt'"),
        (["--prompt", "x", "--stop", "no"], "--stop must be one token of the model's; 'no' is 2"),
        (["--prompt", "x", "--temperature", "-1"], "--temperature must be in [0, inf); got -1.0"),
        (["--prompt", "x", "--top-k", "257"], "--top-k must be in [1, 256]; got 257"),
        (["--prompt", "x", "--top-p", "0"], "--top-p must be in (0, 1]; got 0.0"),
        (["--prompt", "x", "--num-tokens", "0"], "--num-tokens must be at least 1; got 0"),
        (["--prompt", "x", "--seed", "-1"], "--seed must be in [0, 4294967295]; got -1"),
        (["--prompt", "x", "--out", "."], "--out: . is there already: name a new file"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_before_compiling(argv, message, folder, monkeypatch, capsys):
    monkeypatch.setattr(writing, "generate", lambda *_, **__: pytest.fail("got as far as the model"))
    assert write(folder, *argv) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: {message}")
    assert (shown.out, shown.err.count("\n")) == ("", 1)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--context-length", "17"], "--context-length must be in [1, 16]; got 17"),
        (["--crops", "0"], "--crops must be at least 1; got 0"),
        (["--corpus", "nowhere.txt"], "no corpus, file or folder named nowhere.txt"),
        (["--out", "."], "--out: . is there already: name a new file"),
    ],
)
def test_an_evaluation_that_cannot_be_made_is_refused_before_compiling(
    argv, message, folder, monkeypatch, capsys
):
    monkeypatch.setattr(measuring, "make_eval_step", lambda *_, **__: pytest.fail("got as far as the model"))
    assert measure(folder, *argv) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: {message}")
    assert (shown.out, shown.err.count("\n")) == ("", 1)


def test_a_folder_that_is_misspelt_suggests_the_nearest(folder, tmp_path, capsys):
    (tmp_path / "run-1").mkdir()
    assert write(tmp_path / "run1", "--prompt", "x") == 2
    assert f"did you mean {tmp_path}/run-1?" in capsys.readouterr().err
