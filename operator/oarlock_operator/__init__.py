"""The operator: carries RaftClusters through their days on Kubernetes."""
