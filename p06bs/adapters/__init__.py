"""Bridges to other control systems and viewers; the core never imports them."""
