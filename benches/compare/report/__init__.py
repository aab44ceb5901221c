"""What is made of the figures: JSON, tables, a plot."""
