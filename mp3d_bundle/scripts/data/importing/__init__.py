"""CTs of one's own with any kind of truth, as a data set that training and evaluation read.

Imports `boxes`, `storage`, `data.scans`, `data.deeplesion`, `data.synthetic.writing`.
"""
