"""Many scans on the machines of a Ray cluster: who does which, and the record of all of them."""
