"""Meters read counters and do no arithmetic beyond adding up; one concern each."""
