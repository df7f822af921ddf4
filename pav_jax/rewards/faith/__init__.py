"""How much of a prompt a rewrite keeps: concepts, and the structure of simple English sentences."""
