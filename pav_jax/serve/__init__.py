"""`pav serve`: a booster behind OpenAI's HTTP routes and `/refine`."""
