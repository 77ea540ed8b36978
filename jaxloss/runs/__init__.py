"""What a run shows and leaves behind: its command line, terminal report, folder, plots and measures."""
