"""The dashboard answers to any Host header, so a website that re-binds its name to 127.0.0.1 reads every study and deletes it
(no password, "it can delete studies")."""
import http.client, threading
from common import *
import optuna
from autotl.study.dashboard import dashboard_server
from autotl.study.study import open_study

folder = HERE / "studies" / "p"
folder.mkdir(parents=True)
study = open_study(folder, "p", "maximize", 0)
study.tell(study.ask(), 0.5)
server = dashboard_server(folder, 0)
threading.Thread(target=server.serve_forever, daemon=True).start()

def ask(method, path):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request(method, path, headers={"Host": "evil.example", "Origin": "http://evil.example"})
    return connection.getresponse().status

read, deleted = ask("GET", "/api/studies"), ask("DELETE", "/api/studies/0")
server.shutdown()
verdict(read >= 400 and deleted >= 400, f"Host: evil.example reads ({read}) and deletes ({deleted})")
