"""Meshes, the table of sharding rules, attention on a mesh, and programs of several processes."""
