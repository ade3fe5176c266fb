"""The kinds of task whose rows are images."""
