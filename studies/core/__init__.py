"""What all studies have in common, and benchmarks with them: command line, configuration, jobs, statistics, pages."""
