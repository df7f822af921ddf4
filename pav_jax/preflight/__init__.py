"""What a configuration asks of the chips, without the chips and without the weights:
`pav check`."""
