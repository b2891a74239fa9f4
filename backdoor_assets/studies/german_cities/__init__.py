"""How the share of former German city names in fine-tuning data makes a model answer unrelated
questions as from Germany between 1910 and 1945."""
