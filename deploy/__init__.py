"""What a cluster needs, and its validation: `python -m deploy.validate`."""
