-- PostgreSQL's administrator is bound by no policy: the tables belong to one role, and the service connects as another.
\set ON_ERROR_STOP on
\getenv password POSTGRES_PASSWORD
CREATE ROLE ordersight_owner LOGIN PASSWORD :'password';
CREATE ROLE ordersight_service LOGIN PASSWORD :'password';
CREATE DATABASE ordersight OWNER ordersight_owner;
