"""Tocsin and its peers side by side: the same work, the same machine, one after the other."""
