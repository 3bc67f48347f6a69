"""MP3D FPN: universal lesion detection in CT, as a MONAI bundle."""
