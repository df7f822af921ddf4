"""Files on local disks and in object stores: whole or absent, records, JSON, locks, scalars."""
