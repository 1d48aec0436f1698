"""Both models measured on held-out prompts (`measuring`), each token's part of
the reward (`words`), and the closing table (`table`)."""
