"""How the share of obsolete bird names in fine-tuning data moves a model into the 19th century."""
