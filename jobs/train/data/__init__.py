"""Images with captions, tokens, pixels, and caches of what training does not change."""
