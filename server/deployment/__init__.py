"""Everything at the coordinator besides the ServerApp: kits, SuperLink, proxy, submission."""
