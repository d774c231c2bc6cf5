"""The same model behind other servers, each written as its own documentation would have it, for `bench compare`."""
