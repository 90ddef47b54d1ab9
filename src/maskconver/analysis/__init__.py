"""Where panoptic quality is lost: every mistake with its cause, sums that add up, and a report to look at."""
