// Takes the key from behind the # and posts it: following a link alone, as mail scanners do, opens nothing.

const key = location.hash.slice(1);
const form = document.getElementById("open");
if (/^[A-Za-z0-9_-]{43}$/.test(key)) {
  history.replaceState(null, "", location.pathname);
  document.getElementById("key").value = key;
  form.submit();
} else {
  document.getElementById("opening").hidden = true;
  document.getElementById("incomplete").hidden = false;
}
