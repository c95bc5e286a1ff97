"""Records in, verdicts out: summaries, estimates, checks, comparisons, histories. Pure."""
