"""A stateful stand-in for GitHub: its REST API and its webhooks, over bare repositories of the `git` program."""
