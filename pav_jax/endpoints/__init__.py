"""What clients of HTTP endpoints share: options, checks of addresses, API keys."""
