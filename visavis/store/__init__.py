"""How model files reach the disk: where from, downloaded, joined, checked, derived."""
