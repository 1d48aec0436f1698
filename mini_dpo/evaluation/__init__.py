"""Both models measured on held-out prompts (`measuring`), and the closing table (`table`)."""
