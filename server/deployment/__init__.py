"""What runs at the coordinator beside the ServerApp: kits, SuperLink, proxy, submission."""
