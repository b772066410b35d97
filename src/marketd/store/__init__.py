"""History: bars in, ranges out. `contract.py` is the contract, `embedded/` the engine without a server."""
