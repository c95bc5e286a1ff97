"""A run against earlier runs: which of them count, by which rule, and what the rule says. Pure.

    values   a run's values by arm and block, out of its columns
    match    which runs and arms may be held against each other, and what an anchor is pinned to
    rules    the numbers: levels in, an interval of the change out
    judge    the rule that applies to one metric of one arm, as a finding in words

A container's level differs from run to run, by a factor of 2 to 4 within minutes on an ext4 without
a journal, while one run's own interval is a few per cent wide. So no interval of one run alone says
anything about another run; the rules take what differs between runs into account.
"""
