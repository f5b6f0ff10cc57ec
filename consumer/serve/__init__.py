"""Answer prediction requests over HTTP, with the stream's own pipeline."""
