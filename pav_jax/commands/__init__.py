"""What `pav` can do: one file per group of subcommands, each with `add(subparsers)`.

Importing these is quick; heavy imports wait for the handler.
"""
