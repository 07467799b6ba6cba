"""Run directory to tables, figures and one offline HTML report."""
