"""The recipe of chord-nano: scenes with known boxes, training, export, evaluation."""
