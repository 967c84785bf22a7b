"use strict";
// Tables are sorted by a click on a heading and taken along as tab-separated text.
for (const table of document.querySelectorAll(".scroll > table")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const value = (row, i) => {
    const text = row.cells[i].textContent.trim().replace("\u2212", "-");
    const number = parseFloat(text.replace(/(\d),(?=\d{3})/g, "$1"));
    return [text === "\u2014" || text === "" ? 2 : Number.isNaN(number) ? 1 : 0, number, text];
  };
  heads.forEach((head, i) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const rows = [...body.rows].filter((row) => !row.classList.contains("sum"));
      const sums = [...body.rows].filter((row) => row.classList.contains("sum"));
      rows.sort((one, other) => {
        const [a, b] = [value(one, i), value(other, i)];
        if (a[0] !== b[0]) return a[0] - b[0]; // what isn't there comes last, either way
        return sign * (a[0] === 0 ? a[1] - b[1] : a[2].localeCompare(b[2]));
      });
      body.append(...rows, ...sums);
    });
  });
  const take = document.createElement("button");
  take.type = "button";
  take.className = "take";
  take.textContent = "Download this table";
  take.addEventListener("click", () => {
    const same = JSON.parse(table.dataset.same || "[]"); // said once above the rows
    const lines = [table.tHead.rows[0], ...body.rows].map((row, i) =>
      [...same.map((one) => one[i ? 1 : 0]), ...[...row.cells].map((cell) => cell.textContent)]
        .map((text) => text.trim().replace(/\s+/g, " ")).join("\t"));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], {type: "text/tab-separated-values"}));
    const heading = [...document.querySelectorAll("h2, h3, h4")].filter((one) =>
      one.compareDocumentPosition(table) & Node.DOCUMENT_POSITION_FOLLOWING).pop();
    link.download = (heading ? heading.textContent : "table").trim().replace(/[^\w-]+/g, "_") + ".tsv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  table.parentElement.after(take);
}
