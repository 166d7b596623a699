"""From a decoder's output to results at the user's image: pure functions on one image's tensors, and SAM's masks."""
