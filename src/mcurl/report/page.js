
"use strict";
// Sorts a table by the column of the button that was pressed: numbers downwards first, texts upwards, gaps always last.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), table = button.closest("table"), body = table.tBodies[0];
    const column = Number(button.dataset.column), rows = Array.from(body.rows);
    const text = head.classList.contains("text");
    const first = text ? "ascending" : "descending", second = text ? "descending" : "ascending";
    const order = head.getAttribute("aria-sort") === first ? second : first;
    for (const other of table.tHead.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    const key = (row) => {
      const cell = row.cells[column];
      if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
      return text ? cell.textContent.trim() || null : null;
    };
    const sign = order === "ascending" ? 1 : -1;
    const compare = (a, b) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
    };
    rows.map((row) => [key(row), row]).sort((a, b) => compare(a[0], b[0])).forEach(([, row]) => body.append(row));
    document.getElementById("sorted").textContent = `Sorted by ${button.dataset.label}, ${order}`;
  });
}
