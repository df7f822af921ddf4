"""What `pav` can do: one file per group of subcommands, each with `add(subparsers)`. Heavy imports wait for the handler."""
