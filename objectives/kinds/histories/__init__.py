"""The kinds of task whose rows are histories of users."""
