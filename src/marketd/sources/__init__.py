"""Providers behind one contract. `contract.py` is the contract; one folder per provider."""
