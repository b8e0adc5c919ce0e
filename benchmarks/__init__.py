"""Speed and quality against peers, measured side by side: `make bench` (docs/performance.md)."""
