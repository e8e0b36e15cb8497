"""Bodies of the HTTP and admin interfaces, as models. Imports nothing of ours: clients and the operator use it too."""
