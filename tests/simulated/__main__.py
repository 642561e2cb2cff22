"""Write the table of permitted synchronisations into its page."""

from simulated.permitted import BEGIN, END, PAGE, read_page, write_table

before, _, behind = read_page()
PAGE.write_text(f"{before}{BEGIN}\n{write_table()}\n{END}{behind}", encoding="utf-8")
