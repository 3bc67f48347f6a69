"""From a whole scan to lesions and pictures."""
