"""Sentences and tables of a report: figures in, words out. Pure."""
