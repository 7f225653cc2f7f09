"""How engines spell speculation: their settings read as options of ours, and a recommendation written as theirs."""
