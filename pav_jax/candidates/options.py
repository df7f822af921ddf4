"""The choices that configurations have for candidates."""

RANKINGS = ("sum", "pareto", "average_rank")  # see `ranking`
KEEP_VIDEOS = ("none", "best", "all")  # see `pool`
