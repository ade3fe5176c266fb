"""The command line; `app` is its entry point."""

from promptgraft.search.cli.studies import app as app
