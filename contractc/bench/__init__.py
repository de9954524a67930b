"""The harness: cases in, every library that can run them measured side by side, JSON lines and tables out."""
