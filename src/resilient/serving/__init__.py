"""The pages that Prometheus and Kubernetes read."""
